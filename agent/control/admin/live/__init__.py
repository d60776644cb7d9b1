"""What a page shows stays true: answers of the API, told again when they are others, over a WebSocket."""
