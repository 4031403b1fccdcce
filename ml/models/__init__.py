"""The model: encoder, predictor, losses, label encoders."""
