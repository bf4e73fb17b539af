"""What a benchmarker runs: the paper's tables measured here, two results files compared, results as a page."""
