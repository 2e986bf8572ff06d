"""What lets torch modules go to ONNX: Q/DQ for both of torch.onnx's engines, and whole modules."""

import octavo._torch  # noqa: F401  says what is missing, before torch is imported
