"""The paper's estimators, for who has their published files: the networks, and how their pictures are cut."""
