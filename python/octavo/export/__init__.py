"""What lets torch modules go to ONNX: Q/DQ for both of torch.onnx's engines, and whole modules."""
