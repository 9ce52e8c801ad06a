"""Where rows are kept. Each kind of store has a package of its own."""
