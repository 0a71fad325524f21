"""Attribution by gradients: of pixels, of layers, of biases, and after one step of learning."""
