"""Small models of training whose behaviour is known exactly."""
