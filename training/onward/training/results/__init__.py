"""Records of evaluations, which outlive run folders, and the page of results written from them."""
