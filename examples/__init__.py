"""Small real applications; the documentation and the acceptance tests run them."""
