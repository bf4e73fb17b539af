"""Images: files, degradations, metrics, test sets and the training patches."""
