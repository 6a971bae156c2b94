"""What travels over HTTP, as values: which answer the client wants, and the answer's bytes. One protocol a file."""
