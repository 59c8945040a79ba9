# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Benchmarks, their metrics, baselines and reports."""
