// Runs before the page is painted, so that a chosen theme does not flash. Without a choice the system decides.
document.documentElement.dataset.theme = localStorage.getItem("onward.theme") ?? "";
