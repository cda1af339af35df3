"""The programs that make the bundled model `tiny`: data, training, evaluation."""
