"""The versions of the stack, and the document that is made of them."""
