"""How often rules for choosing a threshold fail, on simulated trials."""
