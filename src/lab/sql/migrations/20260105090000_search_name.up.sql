-- Adds a column, fills it for the rows that are there, and keeps it filled for those that come.
ALTER TABLE customers ADD COLUMN search_name text;

CREATE FUNCTION set_search_name() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.search_name := lower(NEW.name || ' ' || NEW.email);
    RETURN NEW;
END $$;

CREATE TRIGGER set_search_name BEFORE INSERT OR UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION set_search_name();

UPDATE customers SET search_name = lower(name || ' ' || email);

CREATE INDEX customers_search_name ON customers (search_name);
