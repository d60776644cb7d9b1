"""`shoal audit`: records of all hosts, whether they are as they were written, and erasing somebody."""
