"""Speed against peers; results as JSON with the hardware."""
