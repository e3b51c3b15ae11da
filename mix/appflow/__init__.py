"""Jobs made of several models and checks: what a person wants done, above single pipelines."""
