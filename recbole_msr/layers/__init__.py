"""Building blocks of the models: small `nn.Module`s, one idea a file."""
