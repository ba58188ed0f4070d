"""Whether training and serving speak of the same numbers: logged features beside those that the log gives today."""
