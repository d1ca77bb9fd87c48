"""Reading DICOM: files and zips told by their content, their series, and the one grid that a series' slices make."""
