"""A case at a glance: a picture of its largest lesions, and a page with all slices."""
