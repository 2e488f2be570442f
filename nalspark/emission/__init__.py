"""Emission-line detections of HETDEX: which are real (Sakai 2020)."""
