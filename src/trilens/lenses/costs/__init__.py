"""How long a step takes: predicted on this machine, forecast on others."""
