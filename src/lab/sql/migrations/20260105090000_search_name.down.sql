DROP TRIGGER set_search_name ON customers;
DROP FUNCTION set_search_name();
ALTER TABLE customers DROP COLUMN search_name;
