"""Side-by-side measurements of CNI plugins, from process start to exit."""
