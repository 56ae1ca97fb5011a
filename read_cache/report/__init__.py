"""Results of runs as one HTML page (`read-cache report`) and as rows of the paper's tables (`read-cache tables`)."""
