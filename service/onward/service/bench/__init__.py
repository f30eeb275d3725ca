"""Load testing of the service: a workload drawn from a bundle, a load generator, and a search for the capacity."""
