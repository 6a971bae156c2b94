"""How the bundled model `parcels` was made: generated scenes, simulated sensors, training and evaluation."""
