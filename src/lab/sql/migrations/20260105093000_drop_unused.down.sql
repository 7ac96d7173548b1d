ALTER TABLE customers ADD COLUMN legacy_code text;
ALTER TABLE support_tickets ADD COLUMN channel text NOT NULL DEFAULT 'unknown';
ALTER TABLE support_tickets ALTER COLUMN channel DROP DEFAULT;

CREATE OR REPLACE FUNCTION open_ticket(customer bigint, about text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    ticket bigint;
BEGIN
    INSERT INTO support_tickets (customer_id, subject, channel) VALUES (customer, about, 'web') RETURNING id INTO ticket;
    RETURN ticket;
END $$;
