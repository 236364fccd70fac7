"""The mini models: small stand-ins for the encoder and the language model, made from SIB-200."""
