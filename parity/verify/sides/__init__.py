"""What can be asked: a stack in this process, an endpoint, or (in `..pack`) what one of them once answered."""
