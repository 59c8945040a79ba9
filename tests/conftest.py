# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""No test may reach the network: these must be set before transformers or trl are imported."""

import os


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
