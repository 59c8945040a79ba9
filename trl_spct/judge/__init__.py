# Copyright 2026 The trl_spct authors. Licensed under the Apache License, Version 2.0.
"""Judging: prompts, sampling, scores and votes. Exactly this folder travels to the Hub with a judge."""
