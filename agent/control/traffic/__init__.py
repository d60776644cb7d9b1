"""What workers hand over of requests: records, answers to compare, requests to store, shares of limits."""
