"""The audit of training code that isn't ours: a door for each framework, checks behind all."""
