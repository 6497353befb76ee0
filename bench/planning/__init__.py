"""Whether a plan is true: predicted beside measured, for many arrangements under open arrivals."""
