# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Labels for datasets of responses."""
