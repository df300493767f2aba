"""Studies: a grid of settings with seeds, trained as a queue that survives kills, and analysed in pairs."""
