// Which place Jetty serves a request by, as strict as it is by default, or taking all it can ("unsafe").

import java.net.InetSocketAddress;
import org.eclipse.jetty.http.UriCompliance;
import org.eclipse.jetty.http.pathmap.ServletPathSpec;
import org.eclipse.jetty.server.Handler;
import org.eclipse.jetty.server.HttpConfiguration;
import org.eclipse.jetty.server.HttpConnectionFactory;
import org.eclipse.jetty.server.Request;
import org.eclipse.jetty.server.Response;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import org.eclipse.jetty.server.handler.PathMappingsHandler;
import org.eclipse.jetty.util.Callback;

public class Judge {
    static class Place extends Handler.Abstract {
        final String name;

        Place(String name) {
            this.name = name;
        }

        @Override
        public boolean handle(Request request, Response response, Callback callback) {
            response.getHeaders().put("X-Place", name);
            response.getHeaders().put("X-Method", request.getMethod());
            callback.succeeded();
            return true;
        }
    }

    public static void main(String[] args) throws Exception {
        HttpConfiguration settings = new HttpConfiguration();
        if (args[0].equals("unsafe")) {
            settings.setUriCompliance(UriCompliance.UNSAFE);
        }
        Server server = new Server();
        ServerConnector connector = new ServerConnector(server, new HttpConnectionFactory(settings));
        connector.setHost("127.0.0.1");
        server.addConnector(connector);
        PathMappingsHandler mappings = new PathMappingsHandler();
        mappings.addMapping(new ServletPathSpec("/admin/*"), new Place("admin"));
        mappings.addMapping(new ServletPathSpec("/public/*"), new Place("public"));
        mappings.addMapping(new ServletPathSpec("/"), new Place("other"));
        server.setHandler(mappings);
        server.start();
        System.out.println(connector.getLocalPort());
        server.join();
    }
}
