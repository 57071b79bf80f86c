//! GPU code in files. Never executes them.
