import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.Signature;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Arrays;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Prints a user token for a live room. Needs Java 17 and jackson-databind, for the JSON.
 *
 * <p>Arguments: USER NAME [ROLE ROOM...]. Environment: TOKEN_SIGNING_KEY, a file with the private key in PEM; TOKEN_KEY_ID,
 * its kid in the JWK Set that liveroom has.
 */
public class SignToken {
    private static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] arguments) throws Exception {
        long now = System.currentTimeMillis() / 1000;
        Map<String, Object> claims = new LinkedHashMap<>();
        claims.put("aud", "liveroom");
        claims.put("sub", arguments[0]);
        claims.put("name", arguments[1]);
        claims.put("role", arguments.length > 2 ? arguments[2] : "viewer");
        claims.put("iat", now);
        claims.put("exp", now + 3600);
        List<String> rooms = Arrays.asList(arguments).subList(Math.min(3, arguments.length), arguments.length);
        if (!rooms.isEmpty()) claims.put("rooms", rooms);

        Map<String, String> header = Map.of("alg", "RS256", "typ", "JWT", "kid", System.getenv("TOKEN_KEY_ID"));
        String text = encoded(JSON.writeValueAsBytes(header)) + "." + encoded(JSON.writeValueAsBytes(claims));
        String pem = Files.readString(Path.of(System.getenv("TOKEN_SIGNING_KEY")));
        byte[] key = Base64.getMimeDecoder().decode(pem.replaceAll("-----[A-Z ]+-----", ""));
        Signature signature = Signature.getInstance("SHA256withRSA");
        signature.initSign(KeyFactory.getInstance("RSA").generatePrivate(new PKCS8EncodedKeySpec(key)));
        signature.update(text.getBytes(StandardCharsets.US_ASCII));
        System.out.println(text + "." + encoded(signature.sign()));
    }

    private static String encoded(byte[] part) {
        return Base64.getUrlEncoder().withoutPadding().encodeToString(part);
    }
}
