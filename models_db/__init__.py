"""SQLAlchemy tables and the sessions that reach them."""
