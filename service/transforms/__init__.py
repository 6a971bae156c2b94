"""What turns a PointCloud into a model's input, and the model's output back into a Segmentation."""
