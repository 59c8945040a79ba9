# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""The three stages of training: rejective fine-tuning, SPCT and the Meta RM."""
