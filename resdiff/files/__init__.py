"""Image files: formats by suffix, headers, codecs for 16 bits, writers that stream."""
