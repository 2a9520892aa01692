"""Systems side by side on one task, and runs that differ by their seeds as one."""
