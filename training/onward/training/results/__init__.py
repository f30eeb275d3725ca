"""What was measured, as files that outlive run folders, and the page that is made of them."""
