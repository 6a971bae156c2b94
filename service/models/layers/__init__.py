"""Layers that families share. Sparse convolution has one interface (`engine.Engine`) and two engines behind it."""
