"""`ens`: ensembles and cross-validation for image classification."""
