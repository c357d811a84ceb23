import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.Properties;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Shows a paid gift in a live room: writes it to the topic uplink, with kafka-clients.
 *
 * <p>Arguments: ROOM USER ORDER GIFT COUNT. Environment: KAFKA_BOOTSTRAP, KAFKA_USERNAME, KAFKA_PASSWORD;
 * KAFKA_SECURITY if it is not SASL_SSL.
 */
public final class Gift {
    public static void main(String[] arguments) throws Exception {
        String room = arguments[0];
        ObjectMapper json = new ObjectMapper();
        ObjectNode record = json.createObjectNode();
        record.put("v", 1);
        record.put("room", room);
        record.put("id", arguments[2]); // your own number of it: whoever sends it again sends the same one
        record.put("user", arguments[1]);
        record.put("at_ms", System.currentTimeMillis());
        record.put("via", "gift-service");
        ObjectNode item = record.putArray("items").addObject();
        item.put("kind", "gift");
        item.putObject("data").put("gift", arguments[3]).put("count", Integer.parseInt(arguments[4]));

        // An error leaves open whether Kafka has the record: run it again with the same ORDER.
        try (KafkaProducer<String, String> producer =
                new KafkaProducer<>(settings(), new StringSerializer(), new StringSerializer())) {
            String topic = setting("UPLINK", "uplink");
            RecordMetadata at = producer.send(new ProducerRecord<>(topic, room, json.writeValueAsString(record))).get();
            System.out.println("written to partition " + at.partition() + " at offset " + at.offset());
        }
    }

    private static Properties settings() {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", setting("KAFKA_BOOTSTRAP", ""));
        settings.put("security.protocol", setting("KAFKA_SECURITY", "SASL_SSL"));
        settings.put("sasl.mechanism", "SCRAM-SHA-512");
        settings.put(
                "sasl.jaas.config",
                String.format(
                        "org.apache.kafka.common.security.scram.ScramLoginModule required username=\"%s\" password=\"%s\";",
                        setting("KAFKA_USERNAME", ""), setting("KAFKA_PASSWORD", "")));
        settings.put("acks", "all");
        settings.put("enable.idempotence", true);
        settings.put("request.timeout.ms", 10_000);
        settings.put("delivery.timeout.ms", 30_000);
        return settings; // no partitioner.class: the default hashes the key by murmur2
    }

    private static String setting(String name, String otherwise) {
        return System.getenv().getOrDefault(name, otherwise);
    }
}
