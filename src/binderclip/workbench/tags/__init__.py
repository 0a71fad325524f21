"""Tags of pictures: `store` keeps them in a file; the page shows them by `static/tags.js`."""
