"""What the bundled model promises, measured: detail, dial, words, photos and speed, one file each."""
